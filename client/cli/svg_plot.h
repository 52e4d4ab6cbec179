#ifndef FLEXQUANT_CLIENT_CLI_SVG_PLOT_H_
#define FLEXQUANT_CLIENT_CLI_SVG_PLOT_H_

// Pieces of SVG images without outside resources, legible on dark and light ground.

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

namespace flexquant::cli {

// `text` as it stands between tags of SVG or HTML.
std::string EscapeMarkup(const std::string& text);

// An image: colours, the ground, then `content`. Lines and marks take the colours --c0 to --c7.
std::string SvgImage(double width, double height, const std::string& content);

// `anchor` is start, middle or end; `kind` a class: "title" or "".
std::string SvgText(double x, double y, const std::string& anchor, const std::string& text,
                    const std::string& kind = "");

struct SvgBox {
  double left = 0;
  double top = 0;
  double width = 0;
  double height = 0;
};

// One direction of a plot. On a log axis values below `low` are drawn at its edge.
struct SvgAxis {
  double low = 0;
  double high = 1;
  bool log = false;

  // Of the axis's length; a value outside is at the edge.
  double Fraction(double value) const;
  // Around `values`, whole powers of ten where log; values that have no logarithm are left out.
  static SvgAxis Around(const std::vector<double>& values, bool log);
};

using SvgPoints = std::vector<std::pair<double, double>>;

class SvgPanel {
 public:
  SvgPanel(const SvgBox& box, const SvgAxis& across, const SvgAxis& upwards)
      : box_(box), across_(across), upwards_(upwards) {}

  // Title, horizontal grid lines with their values, and what goes across.
  std::string Frame(const std::string& title, const std::string& label) const;
  std::string Tick(double across, const std::string& text) const;
  // Ticks at the axis's own steps.
  std::string Ticks() const;
  // Points joined by a line, each marked.
  std::string Line(const SvgPoints& points, size_t color) const;
  std::string Marks(const SvgPoints& points, size_t color) const;
  // A line without marks; dashed if asked for.
  std::string Path(const SvgPoints& points, size_t color, bool dashed) const;
  // A value's range, upwards.
  std::string Whisker(double across, double low, double high, size_t color) const;

 private:
  double X(double across) const { return box_.left + box_.width * across_.Fraction(across); }
  double Y(double upwards) const { return box_.top + box_.height * (1 - upwards_.Fraction(upwards)); }

  SvgBox box_;
  SvgAxis across_;
  SvgAxis upwards_;
};

// A coloured square with its name.
std::string SvgLegend(double x, double y, size_t color, const std::string& name);

}  // namespace flexquant::cli

#endif  // FLEXQUANT_CLIENT_CLI_SVG_PLOT_H_
